package frame

// Command is the first line of a frame. The zero value is no command.
type Command uint8

// The commands of STOMP 1.2. Clients send CONNECT to DISCONNECT, servers send the rest.
const (
	CONNECT Command = iota + 1
	STOMP
	SEND
	SUBSCRIBE
	UNSUBSCRIBE
	ACK
	NACK
	BEGIN
	COMMIT
	ABORT
	DISCONNECT

	CONNECTED
	MESSAGE
	RECEIPT
	ERROR
)

var commandNames = [...]string{
	CONNECT: "CONNECT", STOMP: "STOMP", SEND: "SEND", SUBSCRIBE: "SUBSCRIBE", UNSUBSCRIBE: "UNSUBSCRIBE",
	ACK: "ACK", NACK: "NACK", BEGIN: "BEGIN", COMMIT: "COMMIT", ABORT: "ABORT", DISCONNECT: "DISCONNECT",
	CONNECTED: "CONNECTED", MESSAGE: "MESSAGE", RECEIPT: "RECEIPT", ERROR: "ERROR",
}

// String gives the command as it stands on the wire, "" for the zero value and "?" for a value that is no command.
func (c Command) String() string {
	if int(c) >= len(commandNames) {
		return "?"
	}
	return commandNames[c]
}

// ParseCommand knows a command by its exact name; STOMP commands are case-sensitive.
func ParseCommand(name []byte) (Command, bool) {
	// A switch on a converted slice compares in place, without a copy of the name.
	switch string(name) {
	case "SEND":
		return SEND, true
	case "MESSAGE":
		return MESSAGE, true
	case "ACK":
		return ACK, true
	case "NACK":
		return NACK, true
	case "SUBSCRIBE":
		return SUBSCRIBE, true
	case "UNSUBSCRIBE":
		return UNSUBSCRIBE, true
	case "BEGIN":
		return BEGIN, true
	case "COMMIT":
		return COMMIT, true
	case "ABORT":
		return ABORT, true
	case "CONNECT":
		return CONNECT, true
	case "STOMP":
		return STOMP, true
	case "DISCONNECT":
		return DISCONNECT, true
	case "RECEIPT":
		return RECEIPT, true
	case "CONNECTED":
		return CONNECTED, true
	case "ERROR":
		return ERROR, true
	}
	return 0, false
}

// FromClient tells whether clients send the command, and servers do not.
func (c Command) FromClient() bool { return c >= CONNECT && c <= DISCONNECT }

// HasBody tells whether a frame of this command may have a body.
//
// STOMP 1.2 "Body": only the SEND, MESSAGE, and ERROR frames MAY have a body.
func (c Command) HasBody() bool { return c == SEND || c == MESSAGE || c == ERROR }

// escaping gives the version whose escaping rules hold for frames of this command on a connection of version v.
func (c Command) escaping(v Version) Version {
	switch c {
	case CONNECT, CONNECTED:
		// STOMP 1.2 "Value Encoding" exempts these two, or a passcode that contains \c would change.
		return V10
	case STOMP:
		// The exemption does not name STOMP, a command that no 1.0 client sends, and stomp.py, the client that does
		// send it, escapes its headers. No version is agreed on yet, so the latest rules hold: they include 1.1's.
		return V12
	}
	return v
}
