package gossip

import (
	"errors"
	"fmt"
	"log"
	"net"
	"sync"

	"github.com/hashicorp/memberlist"
)

// capped puts caps between memberlist's transport and memberlist. What it refuses goes to the logger, which counts
// it and prints it once an interval.
type capped struct {
	inner   *memberlist.NetTransport
	caps    *caps
	probes  *probes
	logger  *log.Logger
	streams chan net.Conn
	packets chan *memberlist.Packet

	shut    sync.Once
	closing chan struct{} // memberlist takes nothing more
	done    chan struct{} // nothing more comes
	pumps   sync.WaitGroup
}

func newCapped(inner *memberlist.NetTransport, caps *caps, probes *probes, logger *log.Logger) *capped {
	c := &capped{
		inner:   inner,
		caps:    caps,
		probes:  probes,
		logger:  logger,
		streams: make(chan net.Conn),
		packets: make(chan *memberlist.Packet),
		closing: make(chan struct{}),
		done:    make(chan struct{}),
	}
	c.pumps.Go(c.pumpStreams)
	c.pumps.Go(c.pumpPackets)
	return c
}

func (c *capped) pumpStreams() {
	for {
		select {
		case conn := <-c.inner.StreamCh():
			c.caps.wire.acceptedStreams.Add(1)
			stream := c.caps.admit(conn)
			if stream == nil {
				c.logger.Printf("[WARN] memberlist: number of streams exceeds limit %s", memberlist.LogConn(conn))
				_ = conn.Close()
				continue
			}
			select {
			case c.streams <- stream:
			case <-c.closing:
				_ = stream.Close()
			}
		case <-c.done:
			return
		}
	}
}

func (c *capped) pumpPackets() {
	for {
		select {
		case p := <-c.inner.PacketCh():
			c.caps.wire.receivedPackets.Add(1)
			probe, err := c.judge(p)
			if err != nil {
				c.logger.Printf("[WARN] memberlist: %v %s", err, memberlist.LogAddress(p.From))
			}
			if probe || err != nil {
				continue
			}
			select {
			case c.packets <- p:
			case <-c.closing:
			}
		case <-c.done:
			return
		}
	}
}

var (
	errPacketRate = errors.New("rate of packets exceeds limit")
	errPacketSize = errors.New("packet's size exceeds limit")
)

// judge says why a packet is refused. Probes of paths are dealt with here, and not handed on.
func (c *capped) judge(p *memberlist.Packet) (probe bool, err error) {
	switch {
	case !c.caps.packet(p.From, p.Timestamp):
		return false, errPacketRate
	case p.Buf[0] == probeKind:
		return true, c.probes.take(p)
	}
	return false, c.refuses(p)
}

// refuses says why a packet isn't handed on. What is no encrypted packet is memberlist's to refuse.
func (c *capped) refuses(p *memberlist.Packet) error {
	switch {
	case len(p.Buf) > maxPacketSize:
		return errPacketSize
	case p.Buf[0] == 0:
		return fmt.Errorf("packet's %w", errStreamVersion)
	case p.Buf[0] != encryptionVersion || len(p.Buf) <= encryptionCost:
		return nil
	}
	plain, err := c.caps.keys.open(nil, p.Buf)
	if err != nil {
		return fmt.Errorf("%s: %w", badPacketText, err)
	}
	parts := partsOf(plain)
	messages, err := judgePacket(parts)
	if err != nil {
		return err
	}
	if messages > 0 && !c.caps.messages(addressOf(p.From), messages, p.Timestamp) {
		return errMessages
	}
	c.caps.keys.worn.inPacket(parts)
	return nil
}

// shutdown ends the transport below too, whose listeners wait for the pumps.
func (c *capped) shutdown() error {
	var err error
	c.shut.Do(func() {
		close(c.closing)
		err = errors.Join(c.inner.Shutdown(), c.probes.close())
		close(c.done)
		c.pumps.Wait()
	})
	return err
}
