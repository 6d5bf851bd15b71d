# syntax=docker/dockerfile:1
# A small image that runs on any x86-64 or arm64 CPU: the CPU back ends lie in lib/ and the best one
# is picked when the program starts. The same steps run without an engine by `make image-steps`.
ARG RUST_VERSION=1.95
ARG DEBIAN_VERSION=bookworm

FROM rust:${RUST_VERSION}-slim-${DEBIAN_VERSION} AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential cmake libclang-dev pkg-config \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
# Without .cargo, whose settings build for the machine at hand.
COPY Cargo.toml Cargo.lock README.md ./
COPY LICENSE-APACHE LICENSE-MIT ./
COPY scripts/image-build.sh scripts/
COPY loadtest loadtest
COPY tests tests
COPY models models
COPY providers providers
COPY routes routes
COPY src src
RUN scripts/image-build.sh /out

FROM debian:${DEBIAN_VERSION}-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libgomp1 libstdc++6 \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -o 10001 -g 10001 /data
COPY --from=build /out /opt/hedge
ENV PATH=/opt/hedge:$PATH \
    XDG_DATA_HOME=/data \
    HEDGE_LISTEN=0.0.0.0:8787
# Model files; the only place that is written to, so the root may be read-only.
VOLUME /data
USER 10001:10001
EXPOSE 8787
# Ready, not merely alive: 200 only when a chat can be answered. bash, because no curl is here.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8787 && printf 'GET /readyz HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 && head -n 1 <&3 | grep -q ' 200 '"]
ENTRYPOINT ["hedge"]
CMD ["serve"]
