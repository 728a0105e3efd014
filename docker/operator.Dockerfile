# The operator and the coordinators of runs: Python, no torch. Nothing in it needs a shell or a writable root.
#
#   docker build -f docker/operator.Dockerfile -t sam3ft/operator .
#
# BASE has Python >= 3.11 with venv; name it by digest for builds that shall be the same again.
ARG BASE=docker.io/library/python:3.13-slim-bookworm
ARG BUILD_BASE=${BASE}

FROM ${BUILD_BASE} AS dependencies
ARG PIP_INDEX_URL=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# pip stays outside of what is shipped.
RUN python3 -m venv /pip && python3 -m venv --without-pip /opt/sam3ft
COPY requirements/operator.lock /src/requirements/operator.lock
RUN /pip/bin/pip ${PIP_INDEX_URL:+--index-url ${PIP_INDEX_URL}} --python /opt/sam3ft/bin/python install \
      --require-hashes --only-binary :all: -r /src/requirements/operator.lock \
    && rm -rf /opt/sam3ft/lib/python3.*/site-packages/kubernetes/docs \
    && echo /opt/code > "$(echo /opt/sam3ft/lib/python3.*/site-packages)/sam3ft.pth"

FROM dependencies AS code
COPY requirements/build.lock /src/requirements/build.lock
RUN /pip/bin/pip ${PIP_INDEX_URL:+--index-url ${PIP_INDEX_URL}} install --require-hashes -r /src/requirements/build.lock
COPY pyproject.toml README.md LICENSE CHANGELOG.md /src/
COPY crds/sam3ft_api /src/crds/sam3ft_api
COPY operator/sam3ft_launch /src/operator/sam3ft_launch
COPY operator/sam3ft_operator /src/operator/sam3ft_operator
COPY trainer/sam3ft_trainer/__init__.py /src/trainer/sam3ft_trainer/__init__.py
RUN /pip/bin/pip install --no-deps --no-build-isolation --target /opt/code /src \
    && rm -rf /opt/code/bin /opt/code/sam3ft_trainer

FROM ${BASE}
COPY --from=dependencies /opt/sam3ft /opt/sam3ft
COPY --from=code /opt/code /opt/code
ENV PATH=/opt/sam3ft/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    USER=sam3ft
# Last, so that another commit keeps all layers.
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="sam3ft operator" \
      org.opencontainers.image.description="Operator of SAM3FineTune resources, and the coordinators of their runs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/sam3ft/sam3ft" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 65532:65532
WORKDIR /tmp
# Coordinators replace it by `python -m sam3ft_launch.coordinator`. Python is the first process and gets SIGTERM itself.
ENTRYPOINT ["python", "-m", "sam3ft_operator"]
