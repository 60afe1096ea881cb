# docker build --file docker/cpu.Dockerfile --tag jax_irkd .
FROM python:3.12-slim
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY requirements requirements
COPY jax_irkd jax_irkd
COPY configs configs
COPY tfds_builders tfds_builders
RUN python -m pip install --no-cache-dir --constraint requirements/py312.txt '.[serve,tstdd]' && rm -rf /src
# Any user may run it (--user), none of them root; the home folder is the one that is mounted, so that
# what is compiled is kept beside the runs.
WORKDIR /work
RUN chmod 1777 /work
ENV HOME=/work
USER 1000:1000
ENTRYPOINT ["jax-irkd"]
CMD ["--help"]
