# docker build --file docker/cuda.Dockerfile --tag jax_irkd:cuda .
# JAX's wheels bring CUDA and cuDNN; the machine brings its driver through NVIDIA's container toolkit.
FROM python:3.12-slim
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY requirements requirements
COPY jax_irkd jax_irkd
COPY configs configs
COPY tfds_builders tfds_builders
RUN python -m pip install --no-cache-dir --constraint requirements/py312.txt '.[cuda12,serve,tstdd]' && rm -rf /src
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /work
RUN chmod 1777 /work
ENV HOME=/work
USER 1000:1000
ENTRYPOINT ["jax-irkd"]
CMD ["--help"]
