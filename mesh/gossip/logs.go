package gossip

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/weaveguard/weaveguard/mesh/view"
)

const (
	// logInterval is how often one kind of line is let through.
	logInterval = time.Minute
	// maxLogKinds bounds how many kinds of lines are told apart; the rest is one kind.
	maxLogKinds = 64
	// maxLogLine is where a line is cut, in bytes: memberlist prints whole records.
	maxLogLine = 300
)

// logWriter takes memberlist's log, one line a Write, as the standard library's log.Logger does. It counts and
// reports what lines say of bad packets (memberlist tells it in no other way), and passes them to slog, each
// kind once an interval. Safe for concurrent use.
type logWriter struct {
	log   *slog.Logger
	tally *tally
	port  uint16

	mu    sync.Mutex
	kinds map[string]*logKind
}

// logKind is what was held back of one kind of line.
type logKind struct {
	passed     time.Time
	suppressed int
	line       logLine // the last one held back
}

// logLine is a line of memberlist's log, taken apart.
type logLine struct {
	level  slog.Level
	kind   string // its first words, without what varies
	text   string
	reason string       // for the counters; "" if it refuses nothing
	key    string       // of the problem; "" if there is nothing for operators
	report view.Problem // under that key
}

func newLogWriter(log *slog.Logger, tally *tally, port uint16) *logWriter {
	return &logWriter{log: log, tally: tally, port: port, kinds: make(map[string]*logKind)}
}

// Write takes one line.
func (w *logWriter) Write(line []byte) (int, error) {
	now := time.Now()
	l := w.parse(string(line))
	if l.reason != "" {
		w.tally.count(l.reason)
	}
	if l.key != "" {
		w.tally.report(l.key, l.report, now)
	}
	if suppressed, pass := w.admit(l, now); pass {
		w.emit(l, suppressed)
	}
	return len(line), nil
}

// admit decides whether a line is passed on, and says how many of its kind were held back before it.
func (w *logWriter) admit(l logLine, now time.Time) (suppressed int, pass bool) {
	if !w.log.Enabled(context.Background(), l.level) {
		return 0, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	k, known := w.kinds[l.kind]
	if !known && len(w.kinds) >= maxLogKinds {
		l.kind = ""
		k, known = w.kinds[l.kind]
	}
	if !known {
		k = &logKind{}
		w.kinds[l.kind] = k
	}
	if known && now.Sub(k.passed) < logInterval {
		k.suppressed++
		k.line = l
		return 0, false
	}
	suppressed = k.suppressed
	k.passed, k.suppressed = now, 0
	return suppressed, true
}

// flush passes on the last line of each kind that was held back for an interval, and forgets quiet kinds.
func (w *logWriter) flush(now time.Time) {
	type held struct {
		line       logLine
		suppressed int
	}
	var due []held
	w.mu.Lock()
	for kind, k := range w.kinds {
		switch {
		case now.Sub(k.passed) < logInterval:
		case k.suppressed == 0:
			delete(w.kinds, kind)
		default:
			due = append(due, held{k.line, k.suppressed - 1})
			k.passed, k.suppressed = now, 0
		}
	}
	w.mu.Unlock()
	for _, h := range due {
		w.emit(h.line, h.suppressed)
	}
}

func (w *logWriter) emit(l logLine, suppressed int) {
	var attrs []slog.Attr
	if suppressed > 0 {
		attrs = append(attrs, slog.Int("suppressed", suppressed))
	}
	w.log.LogAttrs(context.Background(), l.level, "memberlist: "+l.text, attrs...)
}

// parse reads memberlist's level prefix and finds out what the line is about.
func (w *logWriter) parse(line string) logLine {
	l := logLine{level: slog.LevelInfo, text: strings.TrimSpace(line)}
	if rest, found := strings.CutPrefix(l.text, "["); found {
		if prefix, text, found := strings.Cut(rest, "]"); found {
			l.level, l.text = level(prefix), strings.TrimSpace(text)
		}
	}
	l.text = strings.TrimPrefix(l.text, "memberlist: ")
	from := sender(l.text)
	w.judge(&l, from)
	if len(l.text) > maxLogLine {
		l.text = fmt.Sprintf("%s… (%d bytes)", strings.ToValidUTF8(l.text[:maxLogLine], ""), len(l.text))
	}
	l.kind = kind(l.text)
	return l
}

// level is how loud one of memberlist's levels is for an operator: it calls errors what a node that restarts
// causes, and says at info that it suspects one. What it refuses is louder; judge sees to that.
func level(prefix string) slog.Level {
	switch prefix {
	case "INFO", "DEBUG":
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// judge finds what the line says of refused packets and of problems. A test holds it against what memberlist
// really prints. What a line quotes, names above all, anybody with the gossip key may have chosen: so it is the beginning
// that counts.
func (w *logWriter) judge(l *logLine, from netip.Addr) {
	says := func(text string) bool { return strings.HasPrefix(l.text, text) }
	has := func(text string) bool { return strings.Contains(l.text, text) }
	switch {
	case says(badPacketText + ": " + wrongKeyText), says(badStreamText + wrongKeyText):
		l.refuse(reasonUndecryptable, from, otherKey(from))
	case says(badStreamText + "encryption is configured but remote state is not encrypted"):
		l.refuse(reasonUnencrypted, from, notGossip(from, w.port))
	case says(badPacketText):
		l.refuse(reasonMalformed, from, notGossip(from, w.port))
	case says("Was able to connect to "):
		if node, ok := nodeOf(wordAfter(l.text, "connect to ")); ok && has(" over TCP but UDP probes failed") {
			l.level, l.key, l.report = slog.LevelWarn, keyUDP+node, noUDP(node, w.port)
		}
	case says("Got ping for unexpected node"): // meant for an earlier start of this node
		l.level = slog.LevelDebug
	case says("Conflicting address"):
		l.level, l.reason = slog.LevelWarn, reasonConflict
	case quotes(l.text):
	case has(errMessages.Error()):
		l.level, l.reason = slog.LevelWarn, reasonMessageFull
	case has("handler queue full"), has("Too many pending"), has("larger than limit"), has("exceeds limit"):
		l.level, l.reason = slog.LevelWarn, reasonOverload
	case from.IsValid() && isMalformed(l.text):
		l.level, l.reason = slog.LevelWarn, reasonMalformed
	}
}

// quotes reports whether a line has words in it that others chose, apart from the names of members, and refuses nothing
// that isn't counted elsewhere.
func quotes(text string) bool {
	for _, begin := range []string{"Refuting ", "ignoring alive message", "Ignoring an alive message", "Rejected ",
		"Failed push/pull merge", "Push/Pull with "} {
		if strings.HasPrefix(text, begin) {
			return true
		}
	}
	return false
}

func (l *logLine) refuse(reason string, from netip.Addr, report view.Problem) {
	l.level, l.reason = slog.LevelWarn, reason
	if from.IsValid() {
		l.key, l.report = keyPacket+from.String(), report
	}
}

func isMalformed(text string) bool {
	for _, word := range []string{"decode", "decompress", "label", "missing", "msgType", "not supported",
		"remote state", "to receive", "too short", "truncated"} {
		if strings.Contains(text, word) {
			return true
		}
	}
	return false
}

// How memberlist says that a packet isn't encrypted as it should be, and that a packet or stream is with a key that it
// doesn't have.
const (
	badPacketText = "Decrypt packet failed"
	badStreamText = "failed to receive: "
	wrongKeyText  = "no installed keys could decrypt the message"
)

// sender finds the address that memberlist names as from=ADDRESS:PORT.
func sender(text string) netip.Addr {
	at := strings.LastIndex(text, "from=")
	if at < 0 {
		return netip.Addr{}
	}
	from, err := netip.ParseAddrPort(wordAfter(text[at:], "from="))
	if err != nil {
		return netip.Addr{}
	}
	return from.Addr().Unmap()
}

// wordAfter returns what stands behind mark, up to the next space.
func wordAfter(text, mark string) string {
	_, rest, _ := strings.Cut(text, mark)
	word, _, _ := strings.Cut(rest, " ")
	return word
}

// kind is the beginning of text, up to the first word that isn't plain words: names, numbers, addresses.
func kind(text string) string {
	var words []string
	for word := range strings.FieldsSeq(text) {
		if strings.ContainsAny(word, "0123456789=/'\"[(") {
			break
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}
