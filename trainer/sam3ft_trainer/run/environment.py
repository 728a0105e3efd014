"""What must stand in a process's environment before torch is imported, for CPU runs that repeat bit for bit.

`MKL_CBWR=AUTO,STRICT` fixes the order of sums of MKL's matrix products for one kind of processor, whatever the
alignment of their operands; `PYTORCH_JIT=0` keeps fusions from changing it. Without them repeated runs differ at about
1e-7. docs/adr/0002 has the measurements.
"""

CPU_ENVIRONMENT = {"PYTORCH_JIT": "0", "MKL_CBWR": "AUTO,STRICT"}
"""Names and values; existing values of the user's environment win."""
