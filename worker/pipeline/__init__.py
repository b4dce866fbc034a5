"""What a stream is: bytes and state in, records and watermark out; pure and synchronous."""
