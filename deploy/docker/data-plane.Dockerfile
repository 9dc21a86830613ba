# A worker. Build it at the root of the repository:
#
#   docker build -f deploy/docker/data-plane.Dockerfile -t ntonix-data-plane .
#
# rust-toolchain.toml is left out on purpose: the image brings its toolchain, and nothing is fetched but crates.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY proto proto
COPY shared shared
COPY control-plane control-plane
COPY data-plane data-plane
COPY deploy/ntonix deploy/ntonix
COPY tests tests
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --locked --profile dist -p ntonix-data-plane \
    && install -D -t /out target/dist/ntonix-data-plane

FROM debian:bookworm-slim
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/ /usr/local/bin/
RUN useradd --system --uid 10001 --home-dir /var/lib/ntonix --create-home ntonix
USER ntonix
# Inside of a container loopback reaches nobody. A configuration without keys is still refused from elsewhere.
ENV NTONIX_STATE_DIR=/var/lib/ntonix NTONIX_LISTEN=0.0.0.0:8080 NTONIX_LISTEN_TLS=0.0.0.0:8443 \
    NTONIX_OPS=0.0.0.0:9080 NTONIX_LOG_FORMAT=json
VOLUME /var/lib/ntonix
EXPOSE 8080 8443 9080
ENTRYPOINT ["ntonix-data-plane"]
