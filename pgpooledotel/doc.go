// Package pgpooledotel shows pgpooled's pools to OpenTelemetry: metrics under the
// semantic conventions' names for database client connection pools
// (db.client.connection.*) where a convention exists, under pgpooled.* for the
// rest, and span events for what happens to single calls.
//
//	db, err := pgpooled.Open(dsn, pgpooled.WithCallObserver(pgpooledotel.SpanEvents))
//	…
//	registration, err := pgpooledotel.RegisterDB(db)
//	if err != nil {
//		log.Fatal(err)
//	}
//	defer registration.Unregister()
//
// The conventions' histograms (wait_time, use_time, create_time) come from
// [Histograms], which is to be given to the SDK's reader: instruments that are
// read on collection cannot be histograms, and an instrument that is written on
// every call would cost every call.
//
// docs/metrics.md of pgpooled has the list of all metrics and what to alert on.
package pgpooledotel
