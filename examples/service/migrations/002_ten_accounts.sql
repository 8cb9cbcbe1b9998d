-- +goose Up
INSERT INTO accounts SELECT id, 1000000 FROM generate_series(1, 10) AS id;

-- +goose Down
DELETE FROM accounts WHERE id BETWEEN 1 AND 10;
