package auth

import "github.com/mqgate/mqgate/config"

// OptionsFrom returns what a configuration says about users. The gateway and
// "mqgate config check" share it, so that the check sees what the start will.
func OptionsFrom(cfg *config.Config) Options {
	o := Options{
		Anonymous: cfg.AnonymousAllowed(),
		Nobody: User{
			Read:    cfg.Anonymous.Read,
			Write:   cfg.Anonymous.Write,
			Consume: cfg.Anonymous.Consume,
			Admin:   cfg.Anonymous.Admin,
		},
		Tokens: TokenOptions{SecretFile: cfg.Tokens.SecretFile, As: cfg.Tokens.As},
	}
	for _, u := range cfg.Users {
		o.Users = append(o.Users, User{
			Name:         u.Name,
			PasswordHash: u.PasswordHash,
			PasswordFile: u.PasswordFile,
			CertNames:    u.CertNames,
			Read:         u.Allow.Read,
			Write:        u.Allow.Write,
			Consume:      u.Allow.Consume,
			Admin:        u.Admin,
		})
	}
	return o
}
