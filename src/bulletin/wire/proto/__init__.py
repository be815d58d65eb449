"""Our own .proto files and the code generated from them (tools/generate-proto)."""
