package proxy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Header is what a proxy says of a connection.
type Header struct {
	// Source is the client's address. It is not valid for a connection of the proxy
	// itself, such as its health check: then the peer is the client.
	Source netip.AddrPort
}

const (
	signature = "\r\n\r\n\x00\r\nQUIT\n"
	// maxV1 is the longest line of version 1, with its CRLF (section 2.1).
	maxV1 = 107
	// addressBytes is what the addresses of version 2 take at most (unix sockets, section 2.2).
	addressBytes = 216
)

var (
	errNoHeader = errors.New("the connection does not begin with a PROXY protocol header")
	errHeader   = errors.New("malformed PROXY protocol header")
)

// Read reads a header, and not one byte behind it.
func Read(r io.Reader) (Header, error) {
	// Both versions are longer than this, which tells them apart.
	var start [len(signature)]byte
	if _, err := io.ReadFull(r, start[:]); err != nil {
		return Header{}, cut(err)
	}
	switch {
	case string(start[:]) == signature:
		return readV2(r)
	case bytes.HasPrefix(start[:], []byte("PROXY ")):
		return readV1(r, start[:])
	}
	return Header{}, errNoHeader
}

// cut explains an end that came too soon.
func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %w", errNoHeader, err)
	}
	return err
}

// readV1 reads the rest of the line byte by byte, as what follows is not ours.
func readV1(r io.Reader, start []byte) (Header, error) {
	line := append(make([]byte, 0, maxV1), start...)
	for !bytes.HasSuffix(line, []byte("\r\n")) {
		if len(line) == maxV1 {
			return Header{}, fmt.Errorf("%w: the line is longer than %d bytes", errHeader, maxV1)
		}
		n := len(line)
		if _, err := io.ReadFull(r, line[n:n+1]); err != nil {
			return Header{}, cut(err)
		}
		line = line[:n+1]
	}
	return parseV1(string(line[:len(line)-2]))
}

// parseV1 reads a line such as "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443".
func parseV1(line string) (Header, error) {
	words := strings.Split(line, " ")
	if len(words) >= 2 && words[1] == "UNKNOWN" {
		return Header{}, nil // what follows is to be ignored (section 2.1)
	}
	if len(words) != 6 || words[1] != "TCP4" && words[1] != "TCP6" {
		return Header{}, fmt.Errorf("%w: %q", errHeader, line)
	}
	source, err1 := netip.ParseAddr(words[2])
	target, err2 := netip.ParseAddr(words[3])
	port, err3 := parsePort(words[4])
	_, err4 := parsePort(words[5])
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return Header{}, fmt.Errorf("%w: %q", errHeader, line)
	}
	if v4 := words[1] == "TCP4"; source.Is4() != v4 || target.Is4() != v4 || source.Zone() != "" || target.Zone() != "" {
		return Header{}, fmt.Errorf("%w: %q has addresses of another family", errHeader, line)
	}
	return Header{Source: netip.AddrPortFrom(source.Unmap(), port)}, nil
}

// parsePort reads 0 to 65535 without leading zeroes (section 2.1).
func parsePort(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err == nil && strconv.FormatUint(n, 10) != text {
		err = errHeader
	}
	return uint16(n), err
}

// readV2 reads what follows the signature (section 2.2).
func readV2(r io.Reader) (Header, error) {
	var fixed [4]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return Header{}, cut(err)
	}
	rest := int(binary.BigEndian.Uint16(fixed[2:]))
	// What is claimed is read, not allocated: only the addresses are kept.
	var addresses [addressBytes]byte
	kept := addresses[:min(rest, addressBytes)]
	if _, err := io.ReadFull(r, kept); err != nil {
		return Header{}, cut(err)
	}
	if _, err := io.CopyN(io.Discard, r, int64(rest-len(kept))); err != nil { // type-length-values
		return Header{}, cut(err)
	}
	if v := fixed[0] >> 4; v != 2 {
		return Header{}, fmt.Errorf("%w: version %d", errHeader, v)
	}
	switch command := fixed[0] & 0xf; command {
	case 0: // LOCAL: the proxy's own connection; the addresses are to be ignored
		return Header{}, nil
	case 1: // PROXY
	default:
		return Header{}, fmt.Errorf("%w: command %d", errHeader, command)
	}
	return parseV2(fixed[1], kept)
}

// parseV2 reads the addresses of a family and transport.
func parseV2(family byte, b []byte) (Header, error) {
	size := 0
	switch family {
	case 0x11: // TCP over IPv4
		size = 4
	case 0x21: // TCP over IPv6
		size = 16
	case 0x00, 0x31: // unspecified, or a unix socket: there is no address that we could name
		return Header{}, nil
	default:
		return Header{}, fmt.Errorf("%w: family and transport %#02x", errHeader, family)
	}
	if len(b) < 2*size+4 {
		return Header{}, fmt.Errorf("%w: %d bytes are too few for its addresses", errHeader, len(b))
	}
	source, _ := netip.AddrFromSlice(b[:size]) // the size is right
	return Header{Source: netip.AddrPortFrom(source.Unmap(), binary.BigEndian.Uint16(b[2*size:]))}, nil
}

// address is the form that net.Conn wants.
func (h Header) address() net.Addr {
	return net.TCPAddrFromAddrPort(h.Source)
}
