"""State rows of device and cloud users, as the Faust tables store them."""
