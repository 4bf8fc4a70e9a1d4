# For those who build images with an engine. `make image` needs none, and what it makes
# is the released image: the same content, and the same bytes each time (ADR-0039).
#
#   docker buildx build --platform linux/amd64,linux/arm64 -t relay .
FROM --platform=$BUILDPLATFORM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS TARGETARCH
RUN build/binaries relay "$TARGETOS/$TARGETARCH" && mv dist/relay_* /relay

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /relay /
USER 65532:65532
ENTRYPOINT ["/relay"]
