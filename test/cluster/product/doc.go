// Package product holds the tests of Weaveguard on a real Kubernetes: the image and the manifest as users get
// them, on nodes that start without a network. TestProduct is the list of what they show; what is claimed is
// observed with kubectl, wg, ip, and traffic, never with the product's own packages beyond the form of its status.
//
// WEAVEGUARD_IMAGE_TAR names the image to test, a docker archive; without it `make image` builds one.
// WEAVEGUARD_USE_CLUSTER names a running cluster that has Weaveguard installed, with three nodes; the tests then
// use that one and leave it running, which saves time while one writes them. What only shows while the agents
// start isn't checked then.
package product
