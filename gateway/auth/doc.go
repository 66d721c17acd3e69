// Package auth knows the users: who a client is, and what it may do.
//
// # What it is
//
// An Authority is built once from Options. Authenticate turns the credentials of
// a login into a router.Principal; Authorize and AuthorizeFilter make it the
// router.Authorizer that every operation of a session asks.
//
// # What it guarantees
//
//   - Passwords are kept as argon2id hashes. A wrong password and an unknown user
//     take the same path and the same time, and give the same answer.
//   - At most as many hashes are computed at once as there are processors. A storm
//     of logins of one user costs one hash: for a minute after a success the same
//     password is recognised by an HMAC under a key that dies with the process.
//   - Who gives wrong credentials is refused, also where anonymous clients are let in.
//   - What no pattern allows is refused. Wildcards do not reach system topics
//     ("$…"): only a pattern that names one does. Nobody may write to them.
//   - A name that a client chose becomes part of a pattern only if it has no
//     character that means anything in one.
//
// # What it never does
//
// It logs no password, starts no goroutine, and changes no rights after a login.
// Only the gateway and the command line import it.
package auth
