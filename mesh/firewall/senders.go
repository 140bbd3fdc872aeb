package firewall

import (
	"errors"

	"github.com/google/nftables"
	"github.com/weaveguard/weaveguard/cni/guard"
	"github.com/weaveguard/weaveguard/cni/store"
)

// senders are the elements that the sets of senders should have: those of all that is attached. Beside them stay those
// of ports that exist and that the store doesn't have, which are of a plugin with another store. Elements of ports that
// are gone go.
func (a *Applier) senders(have *kernelTable) (map[string][]nftables.SetElement, error) {
	attached, problems, err := a.attached()
	if err != nil {
		return nil, err
	}
	elements, known := map[string][]nftables.SetElement{}, map[string]bool{}
	for _, attachment := range attached {
		port, err := guard.PortOf(attachment)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		known[port.Name] = true
		for name, more := range port.Elements() {
			elements[name] = append(elements[name], more...)
		}
	}
	a.warn(problems)
	if have == nil {
		return elements, nil
	}
	for _, name := range guard.Names() {
		for _, element := range have.sets[name].elements {
			if port := guard.PortName(element.Key); !known[port] && guard.PortExists(port) {
				elements[name] = append(elements[name], nftables.SetElement{Key: element.Key})
			}
		}
	}
	return elements, nil
}

// attached is what the store has. Files that can't be read are problems, and don't keep the pods of others from sending;
// what their ports may send stays as it is, as long as the table does.
func (a *Applier) attached() (attached []store.Attachment, problems []error, err error) {
	if a.store == "" {
		return nil, nil, nil
	}
	attached, err = store.ListIn(a.store)
	// A table without anybody in it would make all pods mute.
	if errors.Is(err, store.ErrUnlisted) || errors.Is(err, store.ErrUnopened) {
		return nil, nil, err
	}
	if err != nil {
		problems = append(problems, err)
	}
	return attached, problems, nil
}

// warn tells of pods that may not be able to send, each once as long as it lasts.
func (a *Applier) warn(problems []error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := map[string]bool{}
	for _, problem := range problems {
		text := problem.Error()
		if now[text] = true; !a.warned[text] {
			a.log.Warn("a pod can't send if its node's nftables were emptied; delete the pod, so that it is made again", "error", problem)
		}
	}
	a.warned = now
}
