# The image of Weaveguard: static binaries and nothing else. `make image` builds them first, into build/bin, and this
# only gathers them.
FROM scratch
ARG TARGETARCH
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Weaveguard" \
      org.opencontainers.image.description="Encrypted pod network for Kubernetes: gossip finds the nodes, WireGuard connects them" \
      org.opencontainers.image.source="https://github.com/weaveguard/weaveguard" \
      org.opencontainers.image.url="https://github.com/weaveguard/weaveguard" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY build/bin/linux_${TARGETARCH}/weaveguard-agent /weaveguard-agent
COPY build/bin/linux_${TARGETARCH}/weaveguard /weaveguard
# What the agent installs on the node.
COPY build/bin/linux_${TARGETARCH}/weaveguard-cni /cni/weaveguard
COPY build/bin/linux_${TARGETARCH}/weaveguard-portmap /cni/weaveguard-portmap
# For `kubectl exec POD -- weaveguard status`.
ENV PATH=/
# Root, without most of its capabilities: see the manifest.
USER 0:0
ENTRYPOINT ["/weaveguard-agent"]
