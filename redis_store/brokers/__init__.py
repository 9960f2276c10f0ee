"""The only way by which `sandbox` reaches below the public API: leases, watches and single steps for its brokers."""
