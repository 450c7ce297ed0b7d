"""The benchmark against other servers: same pictures, same weights, same cores, one server after another."""
