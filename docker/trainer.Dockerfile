# What runs on the GPUs: check, launcher, workers, evaluation, export. Needs no shell and no writable root; it writes to
# /tmp, /dev/shm and the run's work folder.
#
#   docker build -f docker/trainer.Dockerfile -t sam3ft/trainer .
#
# BASE has Python >= 3.11 with venv. VARIANT: `cuda` takes the locked wheels, which bring their CUDA libraries along.
# `cpu-test` is for tests on machines without a GPU: the same torch with stand-ins for those libraries (BUILD_BASE has
# gcc and binutils then). It is labelled, and never published; for real work on CPUs give PIP_INDEX_URL an index with torch's CPU wheels.
ARG BASE=docker.io/library/python:3.13-slim-bookworm
ARG BUILD_BASE=${BASE}

FROM ${BUILD_BASE} AS dependencies
ARG PIP_INDEX_URL=
ARG VARIANT=cuda
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /pip && python3 -m venv --without-pip /opt/sam3ft
COPY requirements/trainer.lock /src/requirements/trainer.lock
COPY tools/images/dependencies.py tools/images/stand_ins.py /src/tools/images/
RUN python3 /src/tools/images/dependencies.py --variant "${VARIANT}" --pip /pip/bin/pip --venv /opt/sam3ft \
      --lock /src/requirements/trainer.lock ${PIP_INDEX_URL:+--index-url ${PIP_INDEX_URL}} \
    && echo /opt/code > "$(echo /opt/sam3ft/lib/python3.*/site-packages)/sam3ft.pth"

FROM dependencies AS code
COPY requirements/build.lock /src/requirements/build.lock
RUN /pip/bin/pip ${PIP_INDEX_URL:+--index-url ${PIP_INDEX_URL}} install --require-hashes -r /src/requirements/build.lock
COPY pyproject.toml README.md LICENSE CHANGELOG.md /src/
COPY crds/sam3ft_api /src/crds/sam3ft_api
COPY trainer/sam3ft_trainer /src/trainer/sam3ft_trainer
COPY operator/sam3ft_launch /src/operator/sam3ft_launch
COPY operator/sam3ft_operator/__init__.py /src/operator/sam3ft_operator/__init__.py
RUN /pip/bin/pip install --no-deps --no-build-isolation --target /opt/code /src \
    && rm -rf /opt/code/bin /opt/code/sam3ft_operator

# On a GPU machine layers are compiled at the start of a run. Triton then needs a C compiler, and Python's headers, which
# BASE brings along.
FROM ${BASE} AS compiler
ARG VARIANT=cuda
RUN if [ "${VARIANT}" = cuda ] && ! command -v gcc; then apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*; fi

FROM compiler
COPY --from=dependencies /opt/sam3ft /opt/sam3ft
COPY --from=code /opt/code /opt/code
ENV PATH=/opt/sam3ft/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    USER=sam3ft
# Last, so that another commit keeps all layers.
ARG VARIANT=cuda
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="sam3ft trainer" \
      org.opencontainers.image.description="Check, training, evaluation and export of SAM 3 fine-tuning" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/sam3ft/sam3ft" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      dev.sam3ft.variant="${VARIANT}"
USER 65532:65532
WORKDIR /tmp
# Pods of a run replace it by the verb that they are for. Python is the first process and gets SIGTERM itself.
ENTRYPOINT ["python", "-m", "sam3ft_trainer"]
