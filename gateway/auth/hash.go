package auth

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
)

// MaxPasswordBytes bounds a password.
const MaxPasswordBytes = 1024

// cost is what one argon2id computation takes.
type cost struct {
	memoryKiB uint32
	passes    uint32
	lanes     uint8
}

// defaultCost is OWASP's minimum of 2023. Hashing at 64 MiB, as RFC 9106
// suggests, would let a storm of logins exhaust a small machine.
var defaultCost = cost{memoryKiB: 19 * 1024, passes: 2, lanes: 1}

// What a hash in a configuration may ask for: more would be a typing error, or
// an attempt to stop the process by a login.
const (
	maxMemoryKiB = 256 * 1024
	maxPasses    = 16
	maxLanes     = 16
)

const (
	saltBytes = 16
	keyBytes  = 32
)

// passwordHash is a parsed PHC string.
type passwordHash struct {
	cost cost
	salt []byte
	key  []byte
}

// Hash returns the argon2id hash of a password with a new salt, in PHC form:
//
//	$argon2id$v=19$m=19456,t=2,p=1$<salt>$<key>
//
// The password has 1 to MaxPasswordBytes bytes.
func Hash(password string) (string, error) {
	switch {
	case password == "":
		return "", errors.New("the password is empty")
	case len(password) > MaxPasswordBytes:
		return "", fmt.Errorf("the password has %d bytes; at most %d are allowed", len(password), MaxPasswordBytes)
	}
	h := passwordHash{cost: defaultCost, salt: make([]byte, saltBytes)}
	rand.Read(h.salt) // never fails: crypto/rand ends the process instead
	h.key = derive(password, h.salt, h.cost, keyBytes)
	return h.String(), nil
}

func derive(password string, salt []byte, c cost, size uint32) []byte {
	return argon2.IDKey([]byte(password), salt, c.passes, c.memoryKiB, c.lanes, size)
}

func (h passwordHash) verify(password string) bool {
	if len(password) > MaxPasswordBytes {
		return false
	}
	key := derive(password, h.salt, h.cost, uint32(len(h.key)))
	return subtle.ConstantTimeCompare(key, h.key) == 1
}

// String returns the PHC form.
func (h passwordHash) String() string {
	b64 := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version,
		h.cost.memoryKiB, h.cost.passes, h.cost.lanes, b64(h.salt), b64(h.key))
}

// parseHash reads the PHC form. Its errors do not repeat the hash.
func parseHash(s string) (passwordHash, error) {
	const form = "expected $argon2id$v=19$m=…,t=…,p=…$salt$hash, as \"mqgate passwd\" prints it"
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" {
		return passwordHash{}, errors.New("not a password hash: " + form)
	}
	if parts[1] != "argon2id" {
		return passwordHash{}, fmt.Errorf("password hash of kind %.20q: only argon2id is known; %s", parts[1], form)
	}
	if parts[2] != "v="+strconv.Itoa(argon2.Version) {
		return passwordHash{}, fmt.Errorf("password hash of argon2 version %.20q: only v=%d is known", parts[2], argon2.Version)
	}
	c, err := parseCost(parts[3])
	if err != nil {
		return passwordHash{}, err
	}
	h := passwordHash{cost: c}
	if h.salt, err = decodePart("salt", parts[4], 8, 64); err != nil {
		return passwordHash{}, err
	}
	if h.key, err = decodePart("hash", parts[5], 16, 64); err != nil {
		return passwordHash{}, err
	}
	return h, nil
}

func parseCost(s string) (cost, error) {
	fields := strings.Split(s, ",")
	wrong := fmt.Errorf("password hash with parameters %.40q: expected m=…,t=…,p=…", s)
	if len(fields) != 3 {
		return cost{}, wrong
	}
	var n [3]uint64
	for i, name := range [...]string{"m=", "t=", "p="} {
		digits, ok := strings.CutPrefix(fields[i], name)
		v, err := strconv.ParseUint(digits, 10, 32)
		if !ok || err != nil {
			return cost{}, wrong
		}
		n[i] = v
	}
	// RFC 9106 section 3.1: at least 8 KiB for each lane.
	if n[0] > maxMemoryKiB || n[1] < 1 || n[1] > maxPasses || n[2] < 1 || n[2] > maxLanes || n[0] < 8*n[2] {
		return cost{}, fmt.Errorf("password hash with parameters %.40q: allowed are m=8·p to %d (KiB), t=1 to %d, p=1 to %d",
			s, maxMemoryKiB, maxPasses, maxLanes)
	}
	return cost{memoryKiB: uint32(n[0]), passes: uint32(n[1]), lanes: uint8(n[2])}, nil
}

func decodePart(what, s string, atLeast, atMost int) ([]byte, error) {
	b, err := base64.RawStdEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("password hash whose %s is not base64 without padding", what)
	}
	if len(b) < atLeast || len(b) > atMost {
		return nil, fmt.Errorf("password hash whose %s has %d bytes: allowed are %d to %d", what, len(b), atLeast, atMost)
	}
	return b, nil
}
