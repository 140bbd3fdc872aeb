package cni

import (
	"errors"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
)

// Codes of our own. The spec leaves 100 and above to plugins.
const (
	CodeForeignBridge uint = 100
	CodeDiffers       uint = 101
	CodeExhausted     uint = 102
	CodeAttached      uint = 103
	CodeKernel        uint = 104
	CodeTaken         uint = 105
)

// fail makes an error of a code. The message says what was wrong with what, and what to do.
func fail(code uint, msg string) *types.Error { return types.NewError(code, msg, "") }

// wrap gives an error a code, unless it has one.
func wrap(code uint, doing string, err error) error {
	var coded *types.Error
	if errors.As(err, &coded) {
		return coded
	}
	return types.NewError(code, doing+": "+err.Error(), "")
}

// explain completes a message that the CNI library made before our code ran: it names what the runtime or the
// operator has to change.
func explain(e *types.Error) *types.Error {
	for _, known := range []struct{ prefix, field, advice string }{
		{"interface name", "CNI_IFNAME", "use a name of 1 to 15 characters without / : and spaces"},
		{"invalid characters in containerID", "CNI_CONTAINERID", "use letters, digits, _ . and -, and begin with a letter or digit"},
		{"required env variables", "environment", "a container runtime sets these: see the CNI spec, section 2"},
		{"unknown CNI_COMMAND", "CNI_COMMAND", "use ADD, DEL, CHECK, STATUS, GC or VERSION"},
		{"error unmarshall network config", "network configuration (stdin)", "it must be a JSON object as the CNI spec, section 1, defines"},
		{"missing network name", "network configuration (stdin), key name", "give the network a name"},
		{"invalid characters found in network name", "network configuration (stdin), key name", "use letters, digits, _ . and -"},
		{"incompatible CNI versions", "network configuration (stdin), key cniVersion", "use one of the supported versions"},
		{"config version does not allow", "network configuration (stdin), key cniVersion", "CHECK came with 0.4.0, STATUS and GC with 1.1.0"},
		{"plugin's netns and netns from CNI_NETNS", "CNI_NETNS", "name the sandbox's namespace"},
	} {
		if strings.HasPrefix(e.Msg, known.prefix) {
			return types.NewError(e.Code, known.field+": "+e.Msg+"; "+known.advice, e.Details)
		}
	}
	return e
}
