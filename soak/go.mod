module github.com/pgpooled/pgpooled/soak

go 1.25.0

require (
	github.com/lib/pq v1.12.3
	github.com/pgpooled/pgpooled v0.0.0
)

require (
	github.com/ngrok/sqlmw v0.0.0-20220520173518-97c9c04efc79 // indirect
	github.com/sethvargo/go-retry v0.5.0 // indirect
	golang.org/x/sys v0.45.0 // indirect
)

replace github.com/pgpooled/pgpooled => ..
