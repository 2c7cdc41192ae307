package stdtls

import (
	"runtime"
	"sync"
	"weak"
)

// converted keeps what values of a configuration were converted to as long as
// these values live: they must not be modified after they were handed to a
// provider, so once is enough. The converted form must not point to the value.
// The zero value is ready.
type converted[Value, Form any] struct {
	// forms is weak.Pointer[Value] → Form.
	forms sync.Map
}

func (c *converted[Value, Form]) of(value *Value, convert func(*Value) (Form, error)) (Form, error) {
	key := weak.Make(value)
	if known, ok := c.forms.Load(key); ok {
		return known.(Form), nil
	}
	form, err := convert(value)
	if err != nil {
		return form, err
	}
	kept, loaded := c.forms.LoadOrStore(key, form)
	if !loaded {
		runtime.AddCleanup(value, func(k weak.Pointer[Value]) { c.forms.Delete(k) }, key)
	}
	return kept.(Form), nil
}
