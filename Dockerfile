# For those who build with a container engine. `make image` makes the same without one.
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
ARG TARGETOS TARGETARCH VERSION=0.1.0
WORKDIR /src
COPY go.mod go.sum ./
COPY internal/conntrack/go.mod internal/conntrack/
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -mod=readonly -trimpath -ldflags "-s -w -buildid= -X main.version=v$VERSION" -o /guardian ./cmd/guardian \
    && echo 'guardian:x:65532:65532::/nonexistent:/sbin/nologin' >/passwd

FROM scratch
COPY --from=build /passwd /etc/passwd
COPY --from=build /guardian /guardian
USER 65532:65532
EXPOSE 8080 8081
ENTRYPOINT ["/guardian"]
CMD ["serve"]
