module github.com/pgpooled/pgpooled/cmd/pgpooled

go 1.25.0

require (
	github.com/lib/pq v1.12.3
	github.com/pgpooled/pgpooled v0.0.0
	github.com/spf13/cobra v1.10.2
)

require (
	github.com/inconshreveable/mousetrap v1.1.0 // indirect
	github.com/ngrok/sqlmw v0.0.0-20220520173518-97c9c04efc79 // indirect
	github.com/sethvargo/go-retry v0.5.0 // indirect
	github.com/spf13/pflag v1.0.9 // indirect
	golang.org/x/sys v0.47.0 // indirect
)

replace github.com/pgpooled/pgpooled => ../..
