# The default study on a CPU, for Linux on x86_64. No container engine runs where this project is
# tested, so this file was linted and its commands were tried outside a container.
#
#   docker build --build-arg TORCH_INDEX=URL -t mpo-benchmark .
#   docker run --rm -v "$PWD/results:/mpo/results" mpo-benchmark
#
# URL is the package index that PyTorch's installation page names for pip and CPU. What follows the
# image's name replaces the command: snakemake --cores 2 --configfile config/tiny.yaml
FROM python:3.11-slim-bookworm

# git names the commit in each result; g++ compiles for execution.compile_on_cpu; EGL renders films.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends git g++ libegl1 libgl1 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /mpo
COPY requirements.lock constraints.txt ./
RUN pip install --no-cache-dir --require-hashes --no-deps -r requirements.lock
ARG TORCH_INDEX
RUN : "${TORCH_INDEX:?is not set: --build-arg TORCH_INDEX=URL}" \
    && pip install --no-cache-dir --index-url "$TORCH_INDEX" -c constraints.txt torch

COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e . \
    && pip check \
    && git config --system --add safe.directory /mpo

CMD ["snakemake", "--cores", "all"]
