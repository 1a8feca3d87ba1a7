# Three images from one file: `docker build --target sidecar|registry|agent .`
# Both Debian stages are of one release: the sidecar is linked against this glibc.

FROM rust:1.95-slim-bookworm AS build-sidecar
WORKDIR /src/sidecar-rs
# Dependencies first, against stub sources: this layer is built anew only when Cargo.toml or Cargo.lock changes.
COPY sidecar-rs/Cargo.toml sidecar-rs/Cargo.lock ./
RUN mkdir src \
 && echo 'fn main() {}' > src/main.rs \
 && touch src/lib.rs \
 && cargo build --release --locked \
 && rm -r src
COPY sidecar-rs/src ./src
# Without the touch cargo keeps the stub, because COPY keeps the old times of the files; --version shows that it did not.
RUN touch src/main.rs src/lib.rs \
 && cargo build --release --locked \
 && target/release/chatixia-sidecar --version

FROM debian:bookworm-slim AS sidecar
RUN useradd --no-create-home --uid 10001 mesh \
 && mkdir --mode=0700 /run/chatixia \
 && chown 10001:10001 /run/chatixia
COPY --from=build-sidecar /src/sidecar-rs/target/release/chatixia-sidecar /usr/local/bin/chatixia-sidecar
# For https and wss; the slim image has no certificates of its own.
COPY --from=build-sidecar /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
USER 10001:10001
ENV IPC_SOCKET=/run/chatixia/ipc.sock
ENTRYPOINT ["chatixia-sidecar"]

FROM python:3.13-slim-bookworm AS wheel
WORKDIR /src
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY chatixia_langchain ./chatixia_langchain
COPY --from=build-sidecar /src/sidecar-rs/target/release/chatixia-sidecar /usr/local/bin/chatixia-sidecar
ENV CHATIXIA_SIDECAR_PREBUILT=/usr/local/bin/chatixia-sidecar
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /dist .

FROM python:3.13-slim-bookworm AS registry
RUN useradd --create-home --uid 10001 mesh
COPY --from=wheel /dist /dist
RUN pip install --no-cache-dir "chatixia-langchain[registry] @ file://$(ls /dist/*.whl)"
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=10s CMD ["chatixia-langchain", "doctor", "--quiet", "--registry", "http://127.0.0.1:8080"]
# The key file is mounted; there is no default key.
ENTRYPOINT ["chatixia-langchain"]
CMD ["registry", "--host", "0.0.0.0"]

FROM python:3.13-slim-bookworm AS agent
RUN useradd --create-home --uid 10001 mesh
COPY --from=wheel /dist /dist
RUN pip install --no-cache-dir "chatixia-langchain[openai] @ file://$(ls /dist/*.whl)"
WORKDIR /app
COPY examples ./examples
USER 10001:10001
ENTRYPOINT ["python"]
