package measure

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Reply is the answer to one request to a process that measures. Exactly one of
// Sample, Unsupported and Error is set.
type Reply struct {
	Sample      *Sample `json:"sample,omitempty"`
	Unsupported string  `json:"unsupported,omitempty"`
	Error       string  `json:"error,omitempty"`
}

// Greeting is what such a process says first.
type Greeting struct {
	Library string `json:"library"`
	Error   string `json:"error,omitempty"`
}

// Serve measures a subject on request until r ends. Every request is a line,
// "MEASURE NANOSECONDS MAXOPS"; a line of JSON each, Greeting and then Replies,
// answers. Programs in other languages speak the same.
func Serve(r io.Reader, w io.Writer, s Subject, fixtures string) error {
	replies := json.NewEncoder(w)
	f, err := LoadFixtures(fixtures)
	if err != nil {
		return errors.Join(err, replies.Encode(Greeting{Error: err.Error()}))
	}
	if err := replies.Encode(Greeting{Library: s.Library()}); err != nil {
		return err
	}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var name string
		var duration, maxOps int64
		if _, err := fmt.Sscan(lines.Text(), &name, &duration, &maxOps); err != nil {
			return fmt.Errorf("malformed request %q: %w", lines.Text(), err)
		}
		if err := replies.Encode(reply(s, f, name, time.Duration(duration), int(maxOps))); err != nil {
			return err
		}
	}
	return lines.Err()
}

func reply(s Subject, f Fixtures, name string, duration time.Duration, maxOps int) Reply {
	m, ok := Lookup(name)
	if !ok {
		return Reply{Unsupported: "there is no measure " + name}
	}
	sample, err := m.Take(s, f, duration, maxOps)
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return Reply{Unsupported: err.Error()}
	case err != nil:
		return Reply{Error: err.Error()}
	}
	return Reply{Sample: &sample}
}
