"""Who is trusted: certificates, TLS contexts, and the roles that certificates carry."""
