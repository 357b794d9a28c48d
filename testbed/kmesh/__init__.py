"""The contract of Kmesh's sockops program. The only room that knows a Kmesh name."""
