package keys_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/keys/keystest"
)

// Each step is at a second, what the followed keyring is then, and what is gossiped with.
func TestFollowedKeyring(t *testing.T) {
	type step struct {
		at           int
		wanted, want string
	}
	const foreign = "foreign"
	for name, steps := range map[string][]step{
		"unchanged":               {{0, "a", "a"}, {100, "a", "a"}},
		"in three steps":          {{0, "ab", "ab"}, {40, "ba", "ba"}, {41, "b", "ba"}, {69, "b", "ba"}, {70, "b", "b"}},
		"all steps at once":       {{0, "ab", "ab"}, {1, "ba", "ab"}, {2, "b", "ab"}, {30, "b", "ba"}, {59, "b", "ba"}, {60, "b", "b"}},
		"a new one at once":       {{0, "ba", "ab"}, {29, "ba", "ab"}, {30, "ba", "ba"}},
		"and back":                {{0, "ab", "ab"}, {40, "ba", "ba"}, {41, "ab", "ab"}, {42, "a", "ab"}, {80, "a", "a"}},
		"back before it was due":  {{0, "ba", "ab"}, {10, "a", "ab"}, {40, "a", "a"}},
		"other order of the rest": {{0, "abc", "abc"}, {40, "acb", "abc"}},
		"a replaced one":          {{0, "b", foreign}, {1, "bc", foreign}, {2, "ba", "ab"}},
		"replaced for a while":    {{0, "ab", "ab"}, {5, "c", foreign}, {100, "c", foreign}, {101, "ba", "ba"}},
		"by what lingers":         {{0, "ab", "ab"}, {40, "ba", "ba"}, {41, "b", "ba"}, {42, "a", "ab"}, {43, "a", "ab"}, {80, "a", "a"}},
		"one key twice":           {{0, "aab", "ab"}, {40, "bb", "ba"}, {80, "b", "b"}},
	} {
		t.Run(name, func(t *testing.T) {
			followed := keys.NewFollowed(keystest.Ring("a"))
			begin := time.Unix(1_000_000, 0)
			for _, s := range steps {
				before := keystest.Letters(followed.Ring())
				got, err := followed.Step(begin.Add(time.Duration(s.at)*time.Second), keystest.Ring(s.wanted), 30*time.Second)
				if s.want == foreign {
					if !errors.Is(err, keys.ErrForeignKeyring) || keystest.Letters(followed.Ring()) != before {
						t.Errorf("at %d s: %v, and the keyring %s became %s", s.at, err, before, keystest.Letters(followed.Ring()))
					}
					continue
				}
				if err != nil || keystest.Letters(got) != s.want || !got.Equal(followed.Ring()) {
					t.Errorf("at %d s with %s followed: %s, %v; want %s", s.at, s.wanted, keystest.Letters(got), err, s.want)
				}
			}
		})
	}
}

func TestKeyringEdits(t *testing.T) {
	ring := keystest.Ring("ab")
	a, b := keys.Fingerprint(ring[0]), keys.Fingerprint(ring[1])
	if len(a) != 8 || a == b || strings.Join(ring.Fingerprints(), " ") != a+" "+b {
		t.Fatalf("fingerprints %s, %s, %v", a, b, ring.Fingerprints())
	}
	added, err := ring.Add(keystest.Ring("c")[0])
	if err != nil || keystest.Letters(added) != "abc" || keystest.Letters(ring) != "ab" {
		t.Errorf("added: %s, %v", keystest.Letters(added), err)
	}
	used, err := ring.Use(strings.ToUpper(b))
	if err != nil || keystest.Letters(used) != "ba" || keystest.Letters(ring) != "ab" {
		t.Errorf("used: %s, %v", keystest.Letters(used), err)
	}
	if same, err := ring.Use(a); err != nil || !same.Equal(ring) {
		t.Errorf("used again: %s, %v", keystest.Letters(same), err)
	}
	removed, err := ring.Remove(b)
	if err != nil || keystest.Letters(removed) != "a" || keystest.Letters(ring) != "ab" {
		t.Errorf("removed: %s, %v", keystest.Letters(removed), err)
	}
	for name, try := range map[string]func() (keys.Keyring, error){
		"again":       func() (keys.Keyring, error) { return ring.Add(ring[1]) },
		"short":       func() (keys.Keyring, error) { return ring.Add(ring[1][:16]) },
		"too many":    func() (keys.Keyring, error) { return keystest.Ring("abcdefgh").Add(keystest.Ring("i")[0]) },
		"unknown":     func() (keys.Keyring, error) { return ring.Use("00000000") },
		"nothing":     func() (keys.Keyring, error) { return ring.Remove("") },
		"that in use": func() (keys.Keyring, error) { return ring.Remove(a) },
		"the last":    func() (keys.Keyring, error) { return removed.Remove(a) },
	} {
		if got, err := try(); err == nil {
			t.Errorf("%s: got %s", name, keystest.Letters(got))
		}
	}
}

// An agent that starts in the middle of a change goes on with the key that encrypted before, as the others may not know
// the new one yet.
func TestResumeFollowedKeyring(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	const hold = 30 * time.Second
	for _, c := range []struct{ last, wanted, at, after string }{
		{"", "ba", "ba", "ba"},
		{"a", "a", "a", "a"},
		{"a", "ba", "ab", "ba"},
		{"ab", "ba", "ab", "ba"},
		{"a", "b", "b", "b"}, // taken away while the agent was
		{"ab", "cb", "cb", "cb"},
	} {
		f := keys.ResumeFollowed(keystest.Ring(c.last), keystest.Ring(c.wanted), begin)
		if got := keystest.Letters(f.Ring()); got != c.at {
			t.Errorf("after %q, %q begins as %q, want %q", c.last, c.wanted, got, c.at)
		}
		for at := begin; at.Before(begin.Add(2 * hold)); at = at.Add(10 * time.Second) {
			ring, err := f.Step(at, keystest.Ring(c.wanted), hold)
			if err != nil {
				t.Fatal(err)
			}
			if got := keystest.Letters(ring); at.Before(begin.Add(hold)) && got != c.at || !at.Before(begin.Add(hold)) && got != c.after {
				t.Errorf("after %q, %q is %q %s later", c.last, c.wanted, got, at.Sub(begin))
			}
		}
	}
}
