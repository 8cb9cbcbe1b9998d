package compat

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/clause"
	"gorm.io/gorm/logger"
)

// Customer has what GORM's migrator and associations work on.
type Customer struct {
	gorm.Model
	Name   string `gorm:"size:40;not null;uniqueIndex"`
	Age    int    `gorm:"check:age >= 0;default:18"`
	Note   *string
	Active bool   `gorm:"default:true"`
	Bills  []Bill `gorm:"constraint:OnDelete:CASCADE"`
}

// Bill belongs to a customer.
type Bill struct {
	ID         uint
	CustomerID uint
	Cents      int64 `gorm:"index"`
	Text       string
}

var errHook = errors.New("refused by a hook")

// BeforeCreate and AfterFind are GORM's hooks.
func (b *Bill) BeforeCreate(tx *gorm.DB) error {
	if b.Cents < 0 {
		return errHook
	}
	return tx.Exec("SELECT 1").Error
}

// AfterFind shows that hooks may query while a result is being handled.
func (b *Bill) AfterFind(tx *gorm.DB) error {
	return tx.Session(&gorm.Session{NewDB: true}).Raw("SELECT ?::text", "seen").Scan(&b.Text).Error
}

func (s *side) customer(what string, c Customer, err error) {
	text := fmt.Sprintf("%d %s %d %v %v", c.ID, c.Name, c.Age, c.Note, c.Active)
	for _, b := range c.Bills {
		text += fmt.Sprintf(" %+v", b)
	}
	s.see(what, text, err)
}

func TestGORM(t *testing.T) {
	for _, cfg := range []gorm.Config{{}, {PrepareStmt: true}, {TranslateError: true}, {PrepareStmt: true, TranslateError: true, SkipDefaultTransaction: true}} {
		t.Run(fmt.Sprintf("prepare %v translate %v", cfg.PrepareStmt, cfg.TranslateError), func(t *testing.T) {
			both(t, func(t *testing.T, s *side) { gormApp(t, s, cfg) })
		})
	}
}

func gormApp(t *testing.T, s *side, cfg gorm.Config) {
	cfg.Logger = logger.Discard
	cfg.NowFunc = func() time.Time { return time.Unix(1700000000, 0) }
	db, err := gorm.Open(postgres.New(postgres.Config{DriverName: s.driver, DSN: s.dsn}), &cfg)
	must(t, err)
	pool, err := db.DB()
	must(t, err)
	defer closed(t, pool)
	for range 2 { // the second one looks at what there is
		s.see("migrate", db.AutoMigrate(&Customer{}, &Bill{}))
	}
	m := db.Migrator()
	s.see("migrated", m.HasTable("bills"), m.HasIndex(&Bill{}, "Cents"), m.HasConstraint(&Customer{}, "Bills"), m.AddColumn(&Bill{}, "Text"))
	types, err := m.ColumnTypes(&Customer{})
	must(t, err)
	for _, c := range types {
		size, hasSize := c.Length()
		null, _ := c.Nullable()
		def, _ := c.DefaultValue()
		key, _ := c.PrimaryKey()
		s.see("column", c.Name(), c.DatabaseTypeName(), size, hasSize, null, def, key)
	}
	ada := Customer{Name: "Ada", Bills: []Bill{{Cents: 100}, {Cents: 250}}}
	s.customer("create", ada, db.Create(&ada).Error)
	s.see("batch", db.CreateInBatches([]Customer{{Name: "B"}, {Name: "C"}, {Name: "D"}}, 2).Error)
	for range 3 {
		var c Customer
		s.customer("first", c, db.Preload("Bills").First(&c, "name = ?", "Ada").Error)
		s.customer("found", c, nil)
		err = db.First(&Customer{}, 999).Error
		s.see("none", err, errors.Is(err, gorm.ErrRecordNotFound))
		err = db.Create(&Customer{Name: "Ada"}).Error
		s.see("double", err, errors.Is(err, gorm.ErrDuplicatedKey))
		err = db.Create(&Bill{CustomerID: 12345}).Error
		s.see("foreign key", err, errors.Is(err, gorm.ErrForeignKeyViolated))
		err = db.Create(&Customer{Name: "E", Age: -1}).Error
		s.see("check", err, errors.Is(err, gorm.ErrCheckConstraintViolated))
		err = db.Create(&Bill{CustomerID: ada.ID, Cents: -1}).Error
		s.see("hook", err, errors.Is(err, errHook))
		s.see("upsert", db.Clauses(clause.OnConflict{Columns: []clause.Column{{Name: "name"}}, DoUpdates: clause.AssignmentColumns([]string{"age"})}).
			Create(&Customer{Name: "B", Age: 44}).Error)
		res := db.Model(&Customer{}).Where("name <> ?", "Ada").Updates(map[string]any{"age": gorm.Expr("age + ?", 1), "note": nil})
		s.see("update", res.RowsAffected, res.Error)
		var sums []struct {
			Name  string
			Total int64
		}
		s.see("join", db.Model(&Customer{}).Select("name, coalesce(sum(cents),0) AS total").Joins("LEFT JOIN bills ON customer_id = customers.id").
			Group("name").Order("name").Scan(&sums).Error, sums)
		gormTransactions(t, s, db, ada.ID)
		rows, err := db.Model(&Bill{}).Select("cents").Order("id").Rows()
		s.result("rows", rows, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.see("ended", db.WithContext(ctx).First(&Customer{}).Error)
	s.see("delete", db.Delete(&Customer{}, "name = ?", "D").Error, db.Unscoped().Delete(&Customer{}, ada.ID).Error)
	var n int64
	s.see("left", db.Model(&Bill{}).Count(&n).Error, n, m.DropTable("bills", "customers"), m.HasTable("bills"))
}

// gormTransactions nests one in another by a savepoint, which fails alone.
func gormTransactions(t *testing.T, s *side, db *gorm.DB, customer uint) {
	t.Helper()
	err := db.Transaction(func(tx *gorm.DB) error {
		must(t, tx.Create(&Bill{CustomerID: customer, Cents: 7}).Error)
		inner := tx.Transaction(func(tx *gorm.DB) error {
			must(t, tx.Create(&Bill{CustomerID: customer, Cents: 8}).Error)
			return tx.Create(&Customer{Name: "Ada"}).Error
		})
		s.see("nested", inner)
		var b Bill
		return tx.Clauses(clause.Locking{Strength: "UPDATE"}).First(&b, "cents = ?", 7).Error
	})
	s.see("transaction", err)
	s.see("rolled back", db.Transaction(func(tx *gorm.DB) error {
		must(t, tx.Exec("DELETE FROM bills").Error)
		return errHook
	}))
}
