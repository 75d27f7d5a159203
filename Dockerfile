# One image for every service: docker run sluiceway api|dispatcher|executor|janitor|migrate
FROM python:3.11-slim-bookworm AS build
WORKDIR /build
COPY pyproject.toml constraints.txt README.md ./
COPY services services
COPY libs libs
RUN python -m venv /opt/sluiceway \
 && /opt/sluiceway/bin/pip install --no-cache-dir -c constraints.txt .

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin sluiceway \
 && install -d -o sluiceway -g sluiceway /var/lib/sluiceway/staging
COPY --from=build /opt/sluiceway /opt/sluiceway
ENV PATH=/opt/sluiceway/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SLUICEWAY_API_HOST=0.0.0.0 \
    SLUICEWAY_HEALTH_HOST=0.0.0.0 \
    SLUICEWAY_HEALTH_PORT=8081 \
    SLUICEWAY_STAGING_DIR=/var/lib/sluiceway/staging
USER 10001
EXPOSE 8080 8081
ENTRYPOINT ["sluiceway"]
CMD ["api"]
