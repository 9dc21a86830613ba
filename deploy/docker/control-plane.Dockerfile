# The control plane, and ntonixctl beside it. Build it at the root of the repository:
#
#   docker build -f deploy/docker/control-plane.Dockerfile -t ntonix-control-plane .
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
    cargo build --locked --profile dist -p ntonix-control-plane -p ntonixctl \
    && install -D -t /out target/dist/ntonix-control-plane target/dist/ntonixctl

FROM debian:bookworm-slim
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/ /usr/local/bin/
RUN useradd --system --uid 10001 --home-dir /var/lib/ntonix --create-home ntonix
USER ntonix
ENV NTONIX_STATE_DIR=/var/lib/ntonix NTONIX_OPS=0.0.0.0:9070 NTONIX_LOG_FORMAT=json
VOLUME /var/lib/ntonix
EXPOSE 7070 7071 9070
# 7070 and 7071 listen on loopback until --admin and --sync say otherwise, which needs certificates.
ENTRYPOINT ["ntonix-control-plane"]
