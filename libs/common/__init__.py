"""What every process shares: domain, contracts, ports, adapters, runtime."""
