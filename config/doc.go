// Package config holds every setting of mqgate in one Config.
//
// # What it is
//
// Load layers four sources, later ones winning: the defaults, one YAML file,
// environment variables MQGATE_*, and key=value pairs from the command line. The
// name of a variable follows from the key alone: stomp.tls.cert_file is
// MQGATE_STOMP_TLS_CERT_FILE. A list or map is replaced as a whole by the later
// source, and is written as YAML where the source is one line of text.
//
// # What it guarantees
//
// Decoding is strict. An unknown key, a wrong type, a repeated key, a value out
// of range or a combination that cannot work is an error that says where it was
// written, what is wrong and what to do; all of them are reported at once. What
// Load returns has passed Validate. Reference is generated from the same structs
// that are decoded into, so it cannot name a key that does not exist.
//
// # What it never does
//
// It opens no listener, hashes no password and changes nothing after Load: a
// Config is read-only for whoever receives it. It imports no other package of
// mqgate, and only cmd and gateway import it: other packages take Options of
// their own.
package config
