package pgpooledotel_test

import (
	"context"
	"log"
	"os"

	"go.opentelemetry.io/otel"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/pgpooledotel"
)

// Everything: the instruments, the histograms, and events in the spans of calls.
func Example() {
	var exporter sdkmetric.Exporter // OTLP's, for instance
	histograms := pgpooledotel.NewHistograms()
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(
		sdkmetric.NewPeriodicReader(exporter, sdkmetric.WithProducer(histograms))))
	defer provider.Shutdown(context.Background())
	otel.SetMeterProvider(provider)

	db, err := pgpooled.Open(os.Getenv("DATABASE_URL"), pgpooled.WithCallObserver(pgpooledotel.SpanEvents))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	registration, err := pgpooledotel.RegisterDB(db, pgpooledotel.WithHistograms(histograms))
	if err != nil {
		log.Fatal(err)
	}
	defer registration.Unregister()
}
