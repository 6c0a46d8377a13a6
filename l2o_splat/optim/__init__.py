"""Update rules and the adapter that lets one of them drive a torch training loop."""
