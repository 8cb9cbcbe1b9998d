-- +goose Up
CREATE TABLE accounts (
	id    bigint PRIMARY KEY,
	cents bigint NOT NULL CHECK (cents >= 0)
);
CREATE TABLE transfers (
	key          text PRIMARY KEY,
	from_account bigint NOT NULL REFERENCES accounts,
	to_account   bigint NOT NULL REFERENCES accounts,
	cents        bigint NOT NULL CHECK (cents > 0),
	booked_at    timestamptz NOT NULL DEFAULT now()
);

-- +goose Down
DROP TABLE transfers;
DROP TABLE accounts;
