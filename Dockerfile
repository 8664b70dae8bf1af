# docker build --tag celebahq .                               for CPUs
# docker build --build-arg TORCH=cuda --tag celebahq .        for NVIDIA GPUs; run it with --gpus all
FROM debian:trixie-slim
ARG TORCH=cpu
COPY . /celebahq/source
RUN /celebahq/source/docker/install.sh ${TORCH} /celebahq/venv \
    && cp -r /celebahq/source/tests/sample/celeba /celebahq/sample \
    && rm -rf /celebahq/source /var/lib/apt/lists/*
ENV PATH=/celebahq/venv/bin:$PATH
CMD ["celebahq", "--help"]
