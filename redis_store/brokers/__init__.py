"""The only access of `sandbox` below the public API: leases, watches and single steps for its brokers."""
