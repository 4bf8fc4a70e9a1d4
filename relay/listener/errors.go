package listener

import "errors"

// ErrMessage is wrapped by the errors of [Conn.NextMessage] that say the other
// side broke a rule of the carrier: a message too long or empty, a text
// message, a malformed frame.
var ErrMessage = errors.New("listener: carrier rule broken")
