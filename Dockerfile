# The worker with what it needs to run, at the versions and hashes of deploy/*.lock, and nothing else. pip resolves nothing.

FROM python:3.11-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY deploy/*.lock deploy/
RUN python -m venv --without-pip /opt/session-worker \
    && pip --python /opt/session-worker install --no-cache-dir --no-deps --require-hashes --requirement deploy/image.lock
RUN pip install --no-cache-dir --no-deps --require-hashes --requirement deploy/build.lock
COPY worker worker
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /tmp/wheel . \
    && pip --python /opt/session-worker install --no-cache-dir --no-deps /tmp/wheel/*.whl \
    && pip --python /opt/session-worker check

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
