"""What moves the bytes: Faust, aiokafka, asyncio."""
