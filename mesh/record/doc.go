// Package record owns the signed formats that nodes exchange: how a record, a document, an acknowledgement, or a
// request for a document is encoded, signed, decoded and verified. Decoding is total: any bytes give a valid value, or
// an error. The package never decides whom to believe: that a signature is by the identity in the record says nothing
// about whose identity it should be, and which identity a document's node, or a message's sender, has, the caller says.
package record
