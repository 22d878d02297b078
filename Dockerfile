# One image for every command: `work` unless told otherwise.
FROM python:3.13.1-slim-bookworm

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NUMBA_CACHE_DIR=/var/cache/tidemark \
    NUMBA_CPU_NAME=generic

RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin tidemark

WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY models models
COPY streams streams
RUN pip install -c constraints.txt . && rm -rf build ./*.egg-info

# Compiled once, for any CPU of the architecture; any user may read the result, none but root change it.
RUN python -P -c "from models.rehearsal import rehearse; rehearse()" && chmod -R a+rX /var/cache/tidemark

USER 10001:10001
ENTRYPOINT ["tidemark"]
CMD ["work"]

# No HEALTHCHECK here: most commands end by themselves. docker-compose.yml has the one of a worker.
