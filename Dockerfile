FROM python:3.12.12-slim-bookworm AS build
RUN python -m venv /venv
COPY . /src
# With the demo's numpy, so that one image serves both.
RUN /venv/bin/pip install --no-cache-dir "/src[demo]"

FROM python:3.12.12-slim-bookworm
RUN useradd --uid 1000 --create-home telemetry \
    && install --directory --owner=telemetry --group=telemetry /runs
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1
USER telemetry
# A new volume takes the folder's owner.
VOLUME /runs
EXPOSE 9464
CMD ["telemetry-exporter", "serve", "/runs", "--listen", "0.0.0.0:9464"]
