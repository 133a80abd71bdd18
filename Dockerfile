# syntax=docker/dockerfile:1

# gannet in an image of about 50 MB: no shell, no package manager, not root.
#
#   docker build -t gannet .
#   docker run -p 9000:9000 -v cache:/var/cache/gannet -v ./auth.toml:/etc/gannet/auth.toml:ro \
#     -e AWS_ACCESS_KEY_ID -e AWS_SECRET_ACCESS_KEY \
#     gannet cache --origin s3:// --listen 0.0.0.0:9000 --auth /etc/gannet/auth.toml

FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
# The cache mounts keep dependencies between builds; the binary is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --package gannet-cli \
    && install -D -m 0755 target/release/gannet /out/usr/bin/gannet \
    && install -d -m 0750 -o 65532 -g 65532 /out/var/cache/gannet

# glibc, certificates and nothing else; the user "nonroot" is 65532.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /out/ /
ENV GANNET_DATA=/var/cache/gannet \
    GANNET_OPS_LISTEN=0.0.0.0:9002
VOLUME /var/cache/gannet
EXPOSE 9000 9001 9002
# SIGTERM lets requests under way finish.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/gannet"]
CMD ["cache"]
