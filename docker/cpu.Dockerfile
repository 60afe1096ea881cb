# docker build --file docker/cpu.Dockerfile --tag jax_irkd .
FROM python:3.12-slim
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY requirements requirements
COPY jax_irkd jax_irkd
COPY configs configs
COPY tfds_builders tfds_builders
RUN python -m pip install --no-cache-dir --constraint requirements/py312.txt '.[serve,tstdd]' && rm -rf /src
# Any user may run it (--user), and what is compiled is kept beside the runs.
ENV XDG_CACHE_HOME=/work/.cache
WORKDIR /work
ENTRYPOINT ["jax-irkd"]
CMD ["--help"]
