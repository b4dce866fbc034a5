# The worker with what it needs to run, at the versions and hashes of requirements.lock, and nothing else.

FROM python:3.11-slim AS build
WORKDIR /source
COPY pyproject.toml requirements.lock README.md LICENSE ./
RUN pip install --no-cache-dir "$(grep --only-matching '^uv==[^ ]*' requirements.lock)" \
    && python -m venv --without-pip /opt/session-worker \
    && uv pip install --no-cache --python /opt/session-worker --require-hashes \
        --constraints requirements.lock --requirements pyproject.toml --extra rocksdb
COPY worker worker
RUN uv build --no-cache --wheel --require-hashes --build-constraints requirements.lock --out-dir /wheel \
    && uv pip install --no-cache --python /opt/session-worker --no-deps /wheel/*.whl

FROM python:3.11-slim
RUN useradd --system --uid 10001 --no-create-home session-worker \
    && install --directory --owner=session-worker /var/lib/session-worker
COPY --from=build /opt/session-worker /opt/session-worker
ENV PATH=/opt/session-worker/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SESSION_WORKER_DATA_DIR=/var/lib/session-worker
USER session-worker
# Where session-worker.toml is looked for.
WORKDIR /etc/session-worker
VOLUME /var/lib/session-worker
ENTRYPOINT ["session-worker"]
CMD ["run"]
