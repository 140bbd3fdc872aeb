package view

import "github.com/weaveguard/weaveguard/mesh/record"

// Attachment is one interface of one sandbox on this node, as the CNI plugin keeps it. Its network is the name of the CNI
// network, until the loop has found out which one it is by the bridge.
type Attachment struct {
	record.Attachment
	Bridge string
}
