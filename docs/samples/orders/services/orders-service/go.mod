module registry.example/orders-service

go 1.24
